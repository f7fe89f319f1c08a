"""Tables that commands print for people; imported when a command runs, as it needs all that it shows."""
