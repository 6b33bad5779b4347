"""From a store to batches: which records, what each step sees, how windows get to the device."""
