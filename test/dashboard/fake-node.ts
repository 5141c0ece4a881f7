// SPDX-License-Identifier: Apache-2.0
// A dashboard without an agent behind it: as many pods in as many states as a test likes, and rules that count on command.
import { buildDashboardPage } from "../../scripts/dashboard-page.ts";
import { DashboardServer, type PageText } from "../../src/dashboard/dashboard-server.ts";
import { explainRules } from "../../src/dashboard/packet-paths.ts";
import { PageKey } from "../../src/dashboard/page-key.ts";
import type { PodRules } from "../../src/dashboard/pod-rules.ts";
import type { PodRulesReport, RuleFamilyReport } from "../../src/dashboard/rules-report.ts";
import type { EnrolmentState } from "../../src/enrolment/enrolment-state.ts";
import type { Family } from "../../src/netfilter/family.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { AgentState } from "../../src/status/agent-state.ts";
import type { StateReader } from "../../src/status/state-reader.ts";
import { FakeAgent, type FakePod } from "../status/fake-agent.ts";

const apps = ["cart", "catalogue", "checkout", "frontend", "payments", "reviews", "search", "shipping"];
const options: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};

const page = buildDashboardPage();

/** A served dashboard whose pods a test changes. */
export class FakeNode {
  readonly agent = new FakeAgent();
  /** What the agent answers, while it does. */
  readonly reader: StateReader;
  /** Why it does not. */
  away: Error | undefined;
  readonly key = new PageKey("secret-of-a-test");
  /** What people are told of it; `undefined`: it is back. */
  readonly faults: (string | undefined)[] = [];
  readonly server: DashboardServer;
  /** Packets that each rule has seen. */
  packets = 0;
  /** Looks at rules so far. */
  looks = 0;
  #port = 0;

  private constructor(text: PageText) {
    const source = new AgentState(this.agent.facts());
    const ask = async <T>(question: () => T | Promise<T>): Promise<T> => {
      if (this.away !== undefined) throw this.away;
      return await question();
    };
    this.reader = {
      pods: () => ask(() => source.pods()),
      pod: (ns, name) => ask(() => source.pod(ns, name)),
      node: () => ask(() => source.node()),
    };
    const rules: Pick<PodRules, "rules"> = { rules: (ns, name) => ask(() => this.#rules(ns, name)) };
    const onfault = (fault: Error | undefined) => void this.faults.push(fault?.message);
    this.server = new DashboardServer({
      agent: this.reader,
      rules,
      key: this.key,
      onfault,
      page: text,
    });
    this.agent.readiness.meet("watches");
  }

  static async start(): Promise<FakeNode> {
    const node = new FakeNode(await page);
    node.#port = await node.server.listen(0);
    return node;
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}/${this.key.query}`;
  }

  /** Adds pods of a shop, all in one state. @returns their names */
  addPods(count: number, pod: FakePod = {}): string[] {
    const first = this.agent.pods.size;
    return Array.from({ length: count }, (_, index) => {
      const number = first + index;
      const name = `${apps[number % apps.length]}-${(0x5a17 + 7919 * number).toString(36)}-${number}`;
      this.agent.add(name, {
        ips: [`10.1.${number >> 8}.${number & 255}`, `fd00:1::${number.toString(16)}`],
        ...pod,
      });
      return name;
    });
  }

  /** A run of a pod ends in a state. */
  setState(name: string, state: EnrolmentState): void {
    const uid = `uid-${name}`;
    const record = this.agent.records.get(uid);
    if (record === undefined) throw new Error(`no pod "${name}"`);
    const { history } = this.agent;
    history.begin(uid);
    history.step(uid, "sandbox");
    history.step(uid, "rules");
    if (state === "failed") {
      history.failed(uid, {
        kind: "rules",
        message: 'Cannot finish "iptables-nft-restore --noflush": exit status 4: table is incompatible',
        remedy: "whoever adds rules with nft should use a table of its own",
      });
    } else if (state === "enrolled") history.step(uid, "ztunnel");
    record.state = state;
    history.end(uid, state, state === "enrolled" || state === "outside" ? state : "failed");
  }

  async close(): Promise<void> {
    await this.server.close();
  }

  #rules(ns: string, name: string): PodRulesReport | undefined {
    this.looks++;
    const pod = this.agent.pods.get(`uid-${name}`);
    if (pod === undefined) return undefined;
    const sidecar = pod.sidecar !== undefined;
    const isWanted = ns !== "plain" && !sidecar;
    return {
      at: new Date().toISOString(),
      node: "node-1",
      ns,
      name,
      uid: pod.uid,
      netns: "4:4026532208",
      wanted: isWanted,
      sidecar,
      variant: "nft",
      ms: 12.4,
      unread: null,
      families: isWanted ? [this.#family(4), this.#family(6)] : [],
    };
  }

  #family(family: Family): RuleFamilyReport {
    const { rules, hooks } = explainRules([], options, family);
    const counted = rules.map((rule, index) => {
      const packets = index % 3 === family % 3 ? 0 : this.packets * (index + 1);
      return { ...rule, state: "present" as const, packets, bytes: 60 * packets };
    });
    return { family, rules: counted, hooks: hooks.map((hook) => ({ ...hook, present: true })) };
  }
}
