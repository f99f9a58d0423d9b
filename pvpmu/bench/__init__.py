"""Run designs side by side on one scenario and report what each access cost."""
