// Package netpol is upstream's NetworkPolicy suite alone (k8s.io/kubernetes/test/e2e/network/netpol): the framework and
// the flags of e2e.test without the other 6,000 specs. `make conformance` runs it. What is said of a run stands in summary_test.go.
package netpol

import (
	"context"
	"flag"
	"os"
	"syscall"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/testinit" // the log flags of the framework
	"k8s.io/klog/v2"
	_ "k8s.io/kubernetes/test/e2e/feature" // the features that specs are labelled with
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"   // dumps of a namespace that failed
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init" // hooks that the framework calls
	e2enode "k8s.io/kubernetes/test/e2e/framework/node"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init" // hooks that the framework calls
	_ "k8s.io/kubernetes/test/e2e/network/netpol"      // the specs
	_ "k8s.io/kubernetes/test/utils/format"            // how gomega prints objects
	utilnet "k8s.io/utils/net"
)

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

var _ = ginkgo.SynchronizedBeforeSuite(func(ctx context.Context) []byte {
	client, err := framework.LoadClientset()
	framework.ExpectNoError(err)
	framework.ExpectNoError(e2enode.WaitForAllNodesSchedulable(ctx, client, framework.NewTimeoutContext().NodeSchedulable))
	return nil
}, func(ctx context.Context, _ []byte) {
	client, err := framework.LoadClientset()
	framework.ExpectNoError(err)
	service, err := client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	framework.ExpectNoError(err)
	framework.TestContext.IPFamily = "ipv4"
	if utilnet.IsIPv6String(service.Spec.ClusterIP) {
		framework.TestContext.IPFamily = "ipv6"
	}
})

// sctp labels the specs that need SCTP sockets in pods.
const sctp = "Feature:SCTPConnectivity"

// kernelHas asks the kernel itself for a socket of a protocol.
func kernelHas(protocol int) bool {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, protocol)
	if err != nil {
		return false
	}
	return syscall.Close(socket) == nil
}

func TestNetworkPolicies(t *testing.T) {
	logs.InitLogs()
	defer logs.FlushLogs()
	klog.EnableContextualLogging(true)
	gomega.RegisterFailHandler(framework.Fail)
	suite, reporter := framework.CreateGinkgoConfig()
	if !kernelHas(syscall.IPPROTO_SCTP) {
		suite.LabelFilter = "!" + sctp
	}
	ginkgo.RunSpecs(t, "upstream NetworkPolicy suite", suite, reporter)
}
