"""What figures show: the data of each, made from a run."""
