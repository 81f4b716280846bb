"""What is to be seen of a model on the rows that it was scored on: curves, residuals, slices; bounded, as JSON."""
