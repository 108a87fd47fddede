package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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

// python runs a script with the libraries of .ci/requirements-py.txt and nothing
// else in its environment than env.
func python(ctx context.Context, env []string, args ...string) (string, error) {
	libs, err := libraries("py", "boto3", "openai", "anthropic")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "python3", args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.TempDir(), "PYTHONPATH="+libs, "PYTHONDONTWRITEBYTECODE=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", args[0], err, out, stderr.String())
	}
	return string(out), nil
}
