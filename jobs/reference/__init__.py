"""Which commands and settings there are: the table behind `lst`, and the pages of reference written from it."""
