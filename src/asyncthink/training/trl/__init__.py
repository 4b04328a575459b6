"""Trainings whose update is TRL's."""
