"""Ways to run sana-serve on other systems than a plain host."""
