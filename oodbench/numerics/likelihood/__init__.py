"""Models that are fitted by maximum likelihood: logistic regression, temperature, Weibull tails."""
