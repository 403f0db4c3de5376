"""A page in the browser: draw a shape, watch molecules grow in it."""
