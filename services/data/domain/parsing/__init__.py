"""What a text file's values are: numbers, truth values, times, and rules that infer a column's type from its texts."""
