package deploy

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// archive is what `make image` writes.
const archive = "../../target/image/podgate.tar"

// image is the image's configuration, as the Docker and OCI image formats have it.
type image struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	Labels     map[string]string
	name       string
	files      map[string][]byte
}

var loadImage = sync.OnceValues(func() (image, error) {
	var read image
	parts, err := untar(archive)
	if err != nil {
		return read, err
	}
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(parts["manifest.json"], &manifest); err != nil {
		return read, err
	}
	config := struct{ Config *image }{&read}
	if err := json.Unmarshal(parts[manifest[0].Config], &config); err != nil {
		return read, err
	}
	read.name, read.files = manifest[0].RepoTags[0], map[string][]byte{}
	for _, layer := range manifest[0].Layers {
		if err := eachFile(bytes.NewReader(parts[layer]), func(name string, text []byte) { read.files[name] = text }); err != nil {
			return read, err
		}
	}
	return read, nil
})

func theImage(t *testing.T) image {
	t.Helper()
	image, err := loadImage()
	if err != nil {
		t.Fatalf("%v: run `make image` first", err)
	}
	return image
}

// root is a directory with what the image has, and nothing else.
func (i image) root(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range i.files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// run runs a command of the image with nothing but its files around it.
func (i image) run(t *testing.T, root string, arguments ...string) (string, int) {
	t.Helper()
	command := exec.Command(i.Entrypoint[0], arguments...)
	command.Env, command.Dir = i.Env, "/"
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
	said, err := command.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return string(said), command.ProcessState.ExitCode()
}

func untar(path string) (map[string][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	files := map[string][]byte{}
	return files, eachFile(file, func(name string, text []byte) { files[name] = text })
}

func eachFile(from io.Reader, do func(string, []byte)) error {
	reader := tar.NewReader(from)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			return err
		}
		do(header.Name, text)
	}
}

func TestTheImageIsTheStaticBinaryAlone(t *testing.T) {
	image := theImage(t)
	var names []string
	for name := range image.files {
		names = append(names, name)
	}
	slices.Sort(names)
	same(t, "its files", names, []string{"LICENSE", "podgate"})
	binary, err := elf.NewFile(bytes.NewReader(image.files["podgate"]))
	if err != nil {
		t.Fatal(err)
	}
	libraries, _ := binary.ImportedLibraries()
	for _, program := range binary.Progs {
		if program.Type == elf.PT_INTERP || len(libraries) > 0 {
			t.Errorf("it needs a loader, or %v", libraries)
		}
	}
	if size := len(image.files["podgate"]); size > 24<<20 {
		t.Errorf("%d MiB are pulled by every node", size>>20)
	}
}

func TestTheImageSaysWhatItIs(t *testing.T) {
	image := theImage(t)
	for label, pattern := range map[string]string{
		"title": "^podgate$", "description": "policy", "licenses": "^Apache-2.0$",
		"version": `^\d+\.\d+\.\d+$`, "revision": "^[0-9a-f]{12}|unknown$",
	} {
		if value := image.Labels["org.opencontainers.image."+label]; !regexp.MustCompile(pattern).MatchString(value) {
			t.Errorf("%s is %q", label, value)
		}
	}
	version := image.Labels["org.opencontainers.image.version"]
	if wanted := agent(t).Spec.Template.Spec.Containers[0].Image; image.name != wanted {
		t.Errorf("the DaemonSet's image is %s, made is %s", wanted, image.name)
	}
	if said, code := image.run(t, image.root(t), "--version"); said != "podgate "+version+"\n" || code != 0 {
		t.Errorf("%d: %s", code, said)
	}
}

func TestTheImageTestsPolicies(t *testing.T) {
	image := theImage(t)
	root := image.root(t)
	if err := os.CopyFS(root, os.DirFS(filepath.Join(deploy, "examples"))); err != nil {
		t.Fatal(err)
	}
	example := "/allow-only-certain-pods"
	said, code := image.run(t, root, "test", "-f", "/no-policy/manifests", "-f", example+"/manifests", example+"/expectations.yaml")
	if code != 0 {
		t.Errorf("%d: %s", code, said)
	}
	// Without the policy the same expectations fail.
	if said, code := image.run(t, root, "test", "-f", "/no-policy/manifests", example+"/expectations.yaml"); code != 1 {
		t.Errorf("%d: %s", code, said)
	}
}

func TestEverySettingInTheManifestsIsTheAgents(t *testing.T) {
	image := theImage(t)
	help, code := image.run(t, image.root(t), "run", "--help")
	if code != 0 {
		t.Fatal(help)
	}
	known := map[string]bool{}
	for _, match := range regexp.MustCompile(`\[env: (PODGATE_[A-Z_]+)=`).FindAllStringSubmatch(help, -1) {
		known[match[1]] = true
	}
	used := 0
	mentioned := regexp.MustCompile(`PODGATE_[A-Z_]*[A-Z]`)
	err := filepath.WalkDir(deploy, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, "/image") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range mentioned.FindAllString(string(text), -1) {
			used++
			if !known[name] {
				t.Errorf("%s: `podgate run` knows no %s", path, name)
			}
		}
		return err
	})
	if err != nil || used < 10 {
		t.Errorf("%d settings: %v", used, err)
	}
}
