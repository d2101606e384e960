"""MariaDB source and sink for dpone: a connector in a distribution of its own."""
