"""In which order local Jacobians are multiplied."""
