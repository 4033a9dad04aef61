"""Images that a user gives, without a model: DataLoaders, data sets, batches."""
