"""From a configuration to what a run is made of: models, inputs, losses, the train step."""
