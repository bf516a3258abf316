"""What a program takes on devices that are not there: bytes, exchanges, time."""
