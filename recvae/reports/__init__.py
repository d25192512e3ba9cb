"""Results as files, tables, figures and pages."""
