//go:build tools

// Package tools keeps what is built but not imported in go.mod: ginkgo's command runs the suite in parallel processes.
package tools

import _ "github.com/onsi/ginkgo/v2/ginkgo"
