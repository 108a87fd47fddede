package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCompletion asks as a shell does.
func TestCompletion(t *testing.T) {
	environment(t)
	for _, ws := range []string{"team-a", "team-b"} {
		must(t, "workspace", "create", ws)
		must(t, "connector", "create", ws+"-photos", "--workspace", ws, "--type", "S3", "--bucket", "photos", "--key", "AKIA1", "--secret-file", "secret.txt")
		must(t, "repo", "create", ws+"-web", "--workspace", ws, "--connector", ws+"-photos")
		must(t, "key", "create", "--workspace", ws, "--name", ws+"-key")
	}
	for _, c := range []struct {
		name, line string
		want       []string
	}{
		{"workspaces", "connector list --workspace ", []string{"team-a", "team-b"}},
		{"a workspace by prefix", "connector list --workspace team-b", []string{"team-b"}},
		{"connectors", "connector delete ", []string{"team-a-photos", "team-b-photos"}},
		{"of a workspace", "connector delete --workspace team-a ", []string{"team-a-photos"}},
		{"one argument only", "connector delete team-a-photos ", nil},
		{"connectors of a repository", "repo create web --workspace team-b --connector ", []string{"team-b-photos"}},
		{"repositories", "key list --workspace team-b --repo ", []string{"team-b-web"}},
		{"keys", "key delete --repo team-a-web ", []string{"team-a-key"}},
		{"types", "key create --access ", []string{"READ", "WRITE", "ADMIN"}},
		{"nothing without an answer", "connector delete --token-file missing ", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			words := strings.Split(c.line, " ")
			out, _, status := run(t, "", append([]string{"__complete"}, words...)...)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			got := lines[:len(lines)-1] // the last is the directive
			if len(got) == 0 {
				got = nil
			}
			if status != 0 || !strings.HasPrefix(lines[len(lines)-1], ":4") { // ShellCompDirectiveNoFileComp
				t.Errorf("status %d, directive %q", status, lines[len(lines)-1])
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
