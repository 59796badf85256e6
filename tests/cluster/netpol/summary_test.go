// What is said of a run, in the file that NETPOL_SUMMARY names: a line per spec that ran, slowest last, then the counts.
// A file, as ginkgo does not pass on what its parallel processes print.
package netpol

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"k8s.io/kubernetes/test/e2e/framework"
)

var _ = ginkgo.ReportAfterSuite("summary", func(report ginkgo.Report) {
	file := os.Getenv("NETPOL_SUMMARY")
	if file == "" || report.SuiteConfig.DryRun { // the framework looks at all specs beforehand
		return
	}
	var said strings.Builder
	counts := map[types.SpecState]int{}
	var ran []types.SpecReport
	for _, spec := range report.SpecReports {
		// What the focus left out is skipped too, and of no interest.
		if spec.LeafNodeType != types.NodeTypeIt || (spec.State == types.SpecStateSkipped && !slices.Contains(spec.Labels(), sctp)) {
			continue
		}
		counts[spec.State]++
		ran = append(ran, spec)
	}
	slices.SortFunc(ran, func(a, b types.SpecReport) int { return cmp.Compare(a.RunTime, b.RunTime) })
	for _, spec := range ran {
		if spec.State == types.SpecStateSkipped {
			continue
		}
		why, _, _ := strings.Cut(spec.FailureMessage(), "\n")
		fmt.Fprintf(&said, "%-8s %6.1f s  %s  %s\n", spec.State, spec.RunTime.Seconds(), name(spec), why)
	}
	fmt.Fprintf(&said, "netpol: %d passed, %d failed, %d not run for want of SCTP, in %.0f s\n", counts[types.SpecStatePassed],
		len(ran)-counts[types.SpecStatePassed]-counts[types.SpecStateSkipped], counts[types.SpecStateSkipped], report.RunTime.Seconds())
	framework.ExpectNoError(os.WriteFile(file, []byte(said.String()), 0o644))
})

// name tells a spec from its namesakes of another protocol.
func name(spec types.SpecReport) string {
	containers := strings.Join(spec.ContainerHierarchyTexts, " ")
	for _, protocol := range []string{"UDP", "SCTP"} {
		if strings.Contains(containers, protocol) {
			return protocol + ": " + spec.LeafNodeText
		}
	}
	return "TCP: " + spec.LeafNodeText
}
