"""Linear least squares with a posterior, from rows that grow with the data; knows no model."""
