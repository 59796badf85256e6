// Command generate writes what in deploy/ is made of other files there. Run it in tests/deploy after a change:
// go run ./generate
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"podgate/tests/deploy/render"
)

func main() {
	deploy := "../../deploy"
	files, err := render.Generated(deploy)
	for path, text := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(deploy, path), text, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
