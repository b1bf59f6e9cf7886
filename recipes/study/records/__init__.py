"""What finished units of work leave: writing it, reading figures out of it, drawing them; and the paper's figures beside."""
