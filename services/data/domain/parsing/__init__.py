"""What a text file's values are: numbers, truth values, times, and rules that tell a column's type from its texts."""
