"""New stores out of sealed ones: without a patient, a part of one, two together."""
