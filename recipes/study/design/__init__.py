"""What a study is made of before anything trains: settings, arms, their measured sizes, and the units of work in order."""
