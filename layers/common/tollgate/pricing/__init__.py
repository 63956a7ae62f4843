"""What usage costs: four price models and quotes that explain themselves line by line."""
