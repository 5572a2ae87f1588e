# Prints the targets of the Makefile with their `##` texts, under their `##@` headings.
BEGIN { FS = ":[^#]*## " }
/^##@ / { printf "\n%s\n", substr($0, 5) }
/^[a-z][a-z% -]*:.*## / { printf "  %-12s %s\n", $1, $2 }
