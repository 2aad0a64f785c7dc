// Command compose prints the model that Compose files resolve to, as JSON, with the
// parser of the Compose specification that Docker Compose itself is built on:
//
//	go run . [-profile NAME] FILE...
//
// The shape is that of `docker compose config --format json`. It knows nothing of what
// the files should say: check_compose.py asserts that.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	profile := flag.String("profile", "", "a profile to include")
	flag.Parse()
	model, err := resolve(flag.Args(), *profile)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(model))
}

func resolve(files []string, profile string) ([]byte, error) {
	options, err := cli.NewProjectOptions(files, cli.WithProfiles([]string{profile}))
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}
