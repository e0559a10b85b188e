"""The LightningModule and what it is made of: loss, optimizer, schedules, averages, mixing, callbacks."""
