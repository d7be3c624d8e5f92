// Matches names as Go's regexp does, whose language is RE2's: a line is an expression and names, with tabs between them; the
// answer is a 1 or a 0 for each name, or "refused".
package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		expression, err := regexp.Compile(fields[0])
		if err != nil {
			fmt.Fprintln(out, "refused")
			continue
		}
		for _, name := range fields[1:] {
			found := 0
			if expression.MatchString(name) {
				found = 1
			}
			fmt.Fprint(out, found)
		}
		fmt.Fprintln(out)
	}
}
