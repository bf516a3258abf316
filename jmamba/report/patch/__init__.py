"""What of one text, put into another, brings its answer back."""
