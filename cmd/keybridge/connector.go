package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func connectorCommand() *cobra.Command {
	cmd := group("connector", "Provider resources: a bucket, or an AI API")
	s := addScopeFlags(cmd)
	cmd.AddCommand(connectorCreateCommand(s), connectorListCommand(s), connectorDeleteCommand(s))
	return cmd
}

// connectorForm is what create and update have in common.
type connectorForm struct {
	kind, bucket, region, endpoint, ca, key, secret *string
	configure                                       *bool
}

func addConnectorFlags(cmd *cobra.Command) connectorForm {
	f := cmd.Flags()
	return connectorForm{
		bucket:    f.String("bucket", "", "S3: bucket name"),
		region:    f.String("region", "", "S3: region (default us-east-1)"),
		endpoint:  f.String("endpoint", "", "URL (default: the provider's own)"),
		ca:        f.String("ca-file", "", "PEM certificates to verify the endpoint against instead of the system roots"),
		key:       f.String("key", "", "S3: access key id"),
		secret:    f.String("secret-file", "", "file with the provider's secret, - for standard input"),
		configure: f.Bool("allow-bucket-configuration", false, "S3: let ADMIN keys change bucket configuration and ACLs"),
	}
}

func (f connectorForm) certificates() (string, error) {
	if *f.ca == "" {
		return "", nil
	}
	pem, err := os.ReadFile(*f.ca)
	return string(pem), err
}

func connectorCreateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a connector; its secret is sealed here, before it is sent",
		Example: `  keybridge connector create photos --type S3 --bucket photos --region eu-west-1 --key AKIA… --secret-file secret.txt
  pass show openai | keybridge connector create gpt --type OPENAI --secret-file -
  keybridge connector create local --type OTHER --endpoint https://llm.internal/v1 --ca-file ca.pem --secret-file key.txt`,
		Args: cobra.ExactArgs(1),
	}
	f := addConnectorFlags(cmd)
	kind := cmd.Flags().String("type", "", "S3, OPENAI or OTHER (OpenAI-compatible)")
	oneOf(cmd, "type", "S3", "OPENAI", "OTHER")
	required(cmd, "type", "secret-file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *kind == "S3" && (*f.bucket == "" || *f.key == "") {
			return errors.New("an S3 connector needs --bucket and --key")
		}
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		ca, err := f.certificates()
		if err != nil {
			return err
		}
		secret, err := readSecret(cmd, *f.secret)
		if err != nil {
			return err
		}
		var id string
		if *kind == "S3" {
			id, err = t.CreateBucket(cmd.Context(), client.BucketSpec{
				WorkspaceID: t.id, Name: args[0], Bucket: *f.bucket, Endpoint: *f.endpoint, Region: *f.region,
				CACertificate: ca, Key: *f.key, Secret: secret, AllowBucketConfiguration: *f.configure,
			})
		} else {
			id, err = t.CreateLLM(cmd.Context(), client.LLMSpec{
				WorkspaceID: t.id, Name: args[0], AIType: *kind, Endpoint: *f.endpoint, CACertificate: ca, Secret: secret,
			})
		}
		if err != nil {
			return err
		}
		return s.done(cmd, map[string]string{"id": id, "name": args[0]}, "made connector %s, id %s", args[0], id)
	}
	return cmd
}

func connectorListCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List connectors", Args: cobra.NoArgs,
		Example: "  keybridge connector list\n  keybridge connector list --workspace team-a --json | jq -r '.[].endpoint'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, workspace, names, err := s.seen(cmd)
			if err != nil {
				return err
			}
			all, err := connectors(cmd.Context(), c, workspace, names)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{x.Name, x.Workspace, x.Type, x.Bucket, x.Endpoint, x.ID})
			}
			return s.print(cmd, all, "NAME WORKSPACE TYPE BUCKET ENDPOINT ID", rows)
		},
	}
}

func connectorDeleteCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "Delete a connector and destroy its sealed secret", Args: cobra.ExactArgs(1),
		Long:              "Refused while a repository uses it: take it out with `keybridge repo update` first.",
		Example:           "  keybridge connector delete photos --workspace team-a",
		ValidArgsFunction: s.completion(s.connectorNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			x, err := t.connector(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if x.storage() {
				err = t.DeleteBucket(cmd.Context(), x.ID)
			} else {
				err = t.DeleteLLM(cmd.Context(), x.ID)
			}
			if err != nil {
				return fmt.Errorf("connector %s: %w", x.Name, err)
			}
			return s.done(cmd, deleted{x.ID, x.Name}, "deleted connector %s", x.Name)
		},
	}
}
