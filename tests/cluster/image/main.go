// Command image writes a docker-archive of one layer out of local files, for `ctr images import`: no registry, no
// image tool, and the same bytes for the same files.
//
//	image OUT.tar REGISTRY/NAME:TAG [-entrypoint /PATH] [-cmd WORD] [-dir /PATH] PATH=FILE...
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	entrypoint := flags.String("entrypoint", "", "what the container runs")
	command := flags.String("cmd", "", "its default argument")
	directory := flags.String("dir", "", "an empty directory that everyone may write to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() < 3 {
		return errors.New("usage: image [-entrypoint /PATH] [-cmd WORD] [-dir /PATH] OUT.tar REGISTRY/NAME:TAG PATH=FILE...")
	}
	var layer archive
	for _, pair := range flags.Args()[2:] {
		path, file, found := strings.Cut(pair, "=")
		if !found {
			return fmt.Errorf("%q is not PATH=FILE", pair)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		layer.add(strings.TrimPrefix(path, "/"), 0o755, content)
	}
	if *directory != "" {
		layer.directory(strings.TrimPrefix(*directory, "/"))
	}
	out, tag := flags.Arg(0), flags.Arg(1)
	written, err := describe(tag, *entrypoint, *command, layer.bytes())
	if err != nil {
		return err
	}
	return os.WriteFile(out, written, 0o644)
}

// describe wraps a layer in the configuration and the manifest that make it an image.
func describe(tag, entrypoint, command string, layer []byte) ([]byte, error) {
	config := map[string]any{"Env": []string{"PATH=/"}, "WorkingDir": "/"}
	if entrypoint != "" {
		config["Entrypoint"] = []string{entrypoint}
	}
	if command != "" {
		config["Cmd"] = []string{command}
	}
	about, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		"history": []any{map[string]string{"created_by": "tests/cluster/image"}},
	})
	if err != nil {
		return nil, err
	}
	name := digest(about) + ".json"
	manifest, err := json.Marshal([]any{map[string]any{"Config": name, "RepoTags": []string{tag}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	var whole archive
	whole.add(name, 0o644, about)
	whole.add("layer.tar", 0o644, layer)
	whole.add("manifest.json", 0o644, manifest)
	return whole.bytes(), nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// archive is a tar in memory; writing to memory cannot fail, and a header that tar refuses is a fault of this program.
type archive struct {
	buffer bytes.Buffer
	writer *tar.Writer
}

func (a *archive) add(name string, mode int64, content []byte) {
	a.header(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg})
	if _, err := a.writer.Write(content); err != nil {
		panic(err)
	}
}

func (a *archive) directory(name string) {
	a.header(&tar.Header{Name: name + "/", Mode: 0o1777, Typeflag: tar.TypeDir})
}

func (a *archive) header(header *tar.Header) {
	if a.writer == nil {
		a.writer = tar.NewWriter(&a.buffer)
	}
	if err := a.writer.WriteHeader(header); err != nil {
		panic(err)
	}
}

func (a *archive) bytes() []byte {
	if err := a.writer.Close(); err != nil {
		panic(err)
	}
	return a.buffer.Bytes()
}
