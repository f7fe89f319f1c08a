"""Parts of figures: the look, points and curves as charts need them, marks, and places for names."""
