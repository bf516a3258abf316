"""What a classifier makes of a picture."""
