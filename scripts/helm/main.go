// SPDX-License-Identifier: Apache-2.0

// Command helm renders and checks a chart with Helm's own packages, those of them that need no cluster: a bare machine builds them in
// two minutes, the whole of Helm in ten. It knows three of Helm's verbs, always strict:
//
//	helm template NAME CHART NAMESPACE KUBE_VERSION   objects in the order of their installation; values are read from standard input
//	helm notes    NAME CHART NAMESPACE KUBE_VERSION   what "helm install" says in the end
//	helm lint     CHART                               what "helm lint --strict" says
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/releaseutil"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "lint":
		return lintChart(args[1])
	case len(args) == 5 && (args[0] == "template" || args[0] == "notes"):
		files, capabilities, err := render(args[1], args[2], args[3], args[4])
		if err != nil {
			return err
		}
		if args[0] == "notes" {
			return printNotes(files)
		}
		return printManifests(files, capabilities)
	}
	return errors.New("usage: helm template|notes NAME CHART NAMESPACE KUBE_VERSION <VALUES, or helm lint CHART")
}

// Every template of a chart, by its path. Source: helm pkg/action, Install.RunWithContext and Configuration.renderResources
func render(name, folder, namespace, version string) (map[string]string, *chartutil.Capabilities, error) {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, nil, err
	}
	values, err := chartutil.ReadValues(input)
	if err != nil {
		return nil, nil, err
	}
	kubeVersion, err := chartutil.ParseKubeVersion(version)
	if err != nil {
		return nil, nil, err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *kubeVersion
	chart, err := loader.Load(folder)
	if err != nil {
		return nil, nil, err
	}
	if wanted := chart.Metadata.KubeVersion; wanted != "" && !chartutil.IsCompatibleRange(wanted, kubeVersion.Version) {
		return nil, nil, fmt.Errorf("chart requires kubeVersion: %s which is incompatible with Kubernetes %s", wanted, kubeVersion)
	}
	if err := chartutil.ProcessDependenciesWithMerge(chart, values); err != nil {
		return nil, nil, err
	}
	release := chartutil.ReleaseOptions{Name: name, Namespace: namespace, Revision: 1, IsInstall: true}
	top, err := chartutil.ToRenderValues(chart, values, release, capabilities)
	if err != nil {
		return nil, nil, err
	}
	// a value that is not there is an error, where Helm would print "<no value>"
	files, err := engine.Engine{Strict: true}.Render(chart, top)
	return files, capabilities, err
}

func isNotes(path string) bool {
	return strings.HasSuffix(path, "/NOTES.txt")
}

func printNotes(files map[string]string) error {
	for path, text := range files {
		if isNotes(path) {
			fmt.Println(text)
		}
	}
	return nil
}

func printManifests(files map[string]string, capabilities *chartutil.Capabilities) error {
	for path := range files {
		if isNotes(path) {
			delete(files, path)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, capabilities.APIVersions, releaseutil.InstallOrder)
	if err != nil {
		return err
	}
	if len(hooks) > 0 {
		return errors.New("the chart has hooks, which this program does not print")
	}
	for _, manifest := range manifests {
		fmt.Printf("---\n# Source: %s\n%s\n", manifest.Name, manifest.Content)
	}
	return nil
}

func lintChart(folder string) error {
	linter := lint.AllWithKubeVersion(folder, nil, "default", nil)
	for _, message := range linter.Messages {
		fmt.Println(message)
	}
	if linter.HighestSeverity >= support.WarningSev {
		return errors.New("the chart has faults")
	}
	return nil
}
