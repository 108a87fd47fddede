package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"

	"keybridge/e2e/provider"
)

// libraries is a folder that `make e2e` fills with pip: of Python packages, and of
// the programs that came with them. It must hold what is named.
func libraries(folder string, holds ...string) (string, error) {
	root, err := provider.ModuleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".tools", folder)
	for _, name := range holds {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%w; `make e2e` installs it", err)
		}
	}
	return dir, nil
}
