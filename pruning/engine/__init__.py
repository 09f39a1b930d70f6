"""Run methods and structural plans on models; the only package where they meet."""
