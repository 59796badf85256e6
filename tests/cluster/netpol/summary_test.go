// What is said of a run: a line per spec that ran, slowest last, then the counts. Printed once, also of parallel runs.
package netpol

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

var _ = ginkgo.ReportAfterSuite("summary", func(report ginkgo.Report) {
	if report.SuiteConfig.DryRun { // the framework looks at all specs beforehand
		return
	}
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
		fmt.Printf("%-8s %6.1f s  %s  %s\n", spec.State, spec.RunTime.Seconds(), name(spec), why)
	}
	fmt.Printf("netpol: %d passed, %d failed, %d not run for want of SCTP, in %.0f s\n", counts[types.SpecStatePassed],
		len(ran)-counts[types.SpecStatePassed]-counts[types.SpecStateSkipped], counts[types.SpecStateSkipped], report.RunTime.Seconds())
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
