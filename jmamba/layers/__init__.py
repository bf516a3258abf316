"""The parts that models are stacked from."""
