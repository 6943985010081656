"""What users call: `SecleaAI`, `TrainingRun`, and ``seclea.init / log / finish``."""
