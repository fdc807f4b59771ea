import { createHash } from 'node:crypto';
import { Alerts, type AlertsOptions, type AlertState, ALL_WELL, type SeenAlert, type Told } from '@tributary/alerts';
import { type FindingKind, type ProcessAlert, type ProcessConfig, type Severity, sourcesOfProcess } from '@tributary/config';
import {
  compareSourcePosition,
  formatSourcePosition,
  isoMicros,
  parseSourcePosition,
  type SourcePosition,
} from '@tributary/core';
import { type Finding, type FindingEvent, SEVERITIES } from './finding.ts';
import { ruleWords } from './words.ts';

/** While an alert fires, more of the same is gathered for so long before it is told. */
const NEWS_MS = 10_000;
/** Findings that an alert remembers; then the oldest are let go of, and nothing as old is told any more. */
const REMEMBERED_MAX = 5_000;
/** Alerts of one process at once; what would be one more waits until another is over. */
const ALERTS_MAX = 500;
/** Findings that one letter names. */
const NAMED_MAX = 20;

/** One look at a process, of one moment. */
export interface ProcessLook {
  /** By the clock, ms since 1970. */
  readonly at: number;
  /** How far each source was read. */
  readonly places: ReadonlyMap<string, SourcePosition>;
  readonly completeTo: string | null;
  /** All there are, of every kind that some alert is about. */
  readonly findings: readonly Finding[];
}

/** What was told of one alert, beside where it stands. JSON. */
interface Group {
  /** Index of the definition. */
  readonly of: number;
  /** Short names of findings that were told and are still there. */
  readonly told: readonly string[];
  /** Those of them that somebody has taken note of. */
  readonly noted: readonly string[];
  /** Nothing from then or before is looked at, µs since 1970. */
  readonly floorUs: number;
}

interface Kept {
  /** Where each source stood: until it is there again, nothing is new, and nothing is over. */
  readonly places: Readonly<Record<string, string>>;
  readonly groups: Readonly<Record<string, Group>>;
}

interface Gathered {
  readonly of: number;
  readonly findings: readonly Finding[];
}

/** As status tells it: counts, and no keys of rows. */
export interface ProcessAlertFact {
  readonly alert: string;
  readonly on: readonly FindingKind[];
  readonly state: AlertState['phase'] | 'resolved';
  readonly problem: string;
  readonly severity: Severity;
  readonly raisedAt: number;
  readonly resolvedAt: number | null;
  readonly acknowledged: AlertState['acknowledged'];
}

export interface ProcessAlertDetail extends ProcessAlertFact {
  readonly findings: readonly ToldFinding[];
}

interface ToldFinding {
  readonly rule: string;
  readonly case: string | null;
  readonly severity: Severity;
  readonly at: string;
  readonly reason: string;
  readonly event: FindingEvent | null;
}

const EMPTY: Kept = { places: {}, groups: {} };
const NO_GROUP = { told: [], noted: [], floorUs: 0 } as const;

/**
 * The alerts of one process. Findings are grouped by rule or case; a group is one alert, with the life cycle of `shared/alerts`:
 *
 * - It fires with the first finding. More of the same while it fires are told at once when nobody was told for {@link NEWS_MS}, else
 *   together then; every finding once. Which ones were told is one write with the letter, under names that do not change when the state is
 *   made anew.
 * - A finding is over when it is found no more: the case moved on, was done, or its events changed. What broke a rule, or was changed
 *   silently, stays: such an alert is over when somebody takes note of it.
 * - While a source stands behind where it stood when somebody was told (a state that is made anew), nothing is said, and nothing is over.
 */
export class ProcessAlerts {
  readonly #process: ProcessConfig;
  readonly #alerts: Alerts<Kept>;
  #gathered: ReadonlyMap<string, Gathered> = new Map();
  #warned = false;
  readonly #warn: AlertsOptions['warn'];

  constructor({ process, ...rest }: { readonly process: ProcessConfig } & Omit<AlertsOptions, 'key' | 'prefix'>) {
    this.#process = process;
    this.#warn = rest.warn;
    this.#alerts = new Alerts({ ...rest, key: `process-alerts.${process.name}`, prefix: `process.${process.name}` });
  }

  open(): Promise<void> {
    return this.#alerts.open();
  }

  /** Sends letters as they come, until `signal` aborts. */
  deliver(signal: AbortSignal): Promise<void> {
    return this.#alerts.deliver(signal);
  }

  get lettersLeft(): number {
    return this.#alerts.lettersLeft;
  }

  /** Takes in what a look found. */
  async take(look: ProcessLook): Promise<void> {
    const gathered = this.#gather(look);
    await this.#alerts.take(look.at, ({ kept = EMPTY, states }) => {
      const held = this.#behind(kept, look);
      const seen: SeenAlert[] = [];
      const groups: Record<string, Group> = {};
      for (const [name, group] of Object.entries(kept.groups)) if (this.#process.watch.alerts[group.of]) groups[name] = group;
      const names = new Set([...Object.keys(groups), ...gathered.keys()]);
      for (const name of names) {
        const own = gathered.get(name);
        const before = states[name] ?? ALL_WELL;
        const group = groups[name] ?? (own && { of: own.of, ...NO_GROUP });
        if (!group) continue;
        if (!groups[name] && Object.keys(groups).length >= ALERTS_MAX) {
          this.#tooMany();
          continue;
        }
        const { open, fresh } = sorted(own?.findings ?? [], group);
        const due = before.phase !== 'firing' || look.at - (before.notifiedAt ?? 0) >= NEWS_MS;
        const news = fresh.length > 0 && due;
        seen.push(this.#seen(name, group.of, { look, held, news, fresh, open }));
        if (held) continue;
        const after = remembered(group, own?.findings ?? [], news);
        if (after.told.length > 0 || after.floorUs > 0) groups[name] = after;
        else delete groups[name];
      }
      const known = (name: string) => names.has(name);
      const same = JSON.stringify(groups) === JSON.stringify(kept.groups);
      return { seen, known, ...(same ? {} : { kept: { places: placesOf(look), groups } }) };
    });
    this.#gathered = gathered;
  }

  /** Somebody takes note of what was told so far. @throws Fault `not_found` when it does not fire */
  acknowledge(alert: string, by: { readonly by: string; readonly at: number }): Promise<void> {
    return this.#alerts.acknowledge(alert, {
      ...by,
      kept: (kept) => {
        const group = kept?.groups[alert];
        return kept && group && { ...kept, groups: { ...kept.groups, [alert]: { ...group, noted: group.told } } };
      },
    });
  }

  facts(): readonly ProcessAlertFact[] {
    return this.#details().map(({ findings: _findings, ...fact }) => fact);
  }

  /** With the findings, which name cases. */
  details(): readonly ProcessAlertDetail[] {
    return this.#details();
  }

  #details(): ProcessAlertDetail[] {
    const raised = Object.entries(this.#alerts.states).flatMap(([alert, state]): ProcessAlertDetail[] => {
      if (state.raisedAt === null) return [];
      const own = this.#gathered.get(alert);
      const findings = own?.findings ?? [];
      const { phase, raisedAt, acknowledged = null } = state;
      const told = findings.slice(0, NAMED_MAX).map(toldOf);
      return [
        {
          alert,
          on: kindsOf(findings),
          state: phase,
          problem: problemOf(this.#process, findings),
          severity: worst(findings),
          raisedAt,
          resolvedAt: null,
          acknowledged,
          findings: told,
        },
      ];
    });
    const over = this.#alerts.past.map(({ alert, when, raisedAt, resolvedAt }): ProcessAlertDetail => {
      const rest = { severity: 'info', raisedAt, resolvedAt, acknowledged: null, findings: [] } as const;
      return { alert, on: [], state: 'resolved', problem: when, ...rest };
    });
    return [...raised, ...over.toReversed()];
  }

  /** Findings by the alert that they belong to, the oldest first. */
  #gather({ findings }: ProcessLook): Map<string, Gathered> {
    const gathered = new Map<string, { of: number; findings: Finding[] }>();
    const ordered = findings.toSorted((a, b) => a.atUs - b.atUs);
    this.#process.watch.alerts.forEach((alert, of) => {
      for (const finding of ordered) {
        if (!alert.on.includes(finding.kind)) continue;
        const name = nameOf(finding, alert, of);
        const group = gathered.get(name);
        if (group) group.findings.push(finding);
        else gathered.set(name, { of, findings: [finding] });
      }
    });
    return gathered;
  }

  #behind({ places }: Kept, look: ProcessLook): boolean {
    return sourcesOfProcess(this.#process).some((source) => {
      const [was, is] = [places[source], look.places.get(source)];
      return was !== undefined && (is === undefined || compareSourcePosition(is, parseSourcePosition(was)) < 0);
    });
  }

  #seen(
    name: string,
    of: number,
    at: { look: ProcessLook; held: boolean; news: boolean; fresh: readonly Finding[]; open: readonly Finding[] },
  ): SeenAlert {
    const { to, renotifyMs, groupBy } = this.#process.watch.alerts[of] as ProcessAlert;
    const { look, held, news, fresh, open } = at;
    const process = this.#process.name;
    return {
      name,
      // A case is not named where everybody may look.
      when: groupBy === 'rule' ? name.replace(/@\d+$/, '') : 'a case',
      to,
      rule: { forMs: 0, keepFiringMs: 0, noData: 'hold', stale: 'hold', renotifyMs },
      sight: held ? 'stale' : open.length > 0 ? 'met' : 'unmet',
      gapMs: 0,
      news,
      body: ({ cause: _cause, ...told }: Told) => ({
        type: 'tributary.process.alert',
        process,
        alert: name,
        on: kindsOf(open),
        severity: worst(open),
        count: open.length,
        new: told.state === 'firing' ? fresh.length : 0,
        findings: (told.state === 'firing' ? fresh : open).slice(0, NAMED_MAX).map(toldOf),
        ...told,
        completeTo: look.completeTo,
      }),
    };
  }

  #tooMany(): void {
    if (this.#warned) return;
    this.#warned = true;
    this.#warn({ process: this.#process.name, alerts: ALERTS_MAX }, 'too many alerts at once: more wait until others are over');
  }
}

/** What is open of a group, and what of it nobody was told of. */
function sorted(findings: readonly Finding[], { told, noted, floorUs }: Group): { open: Finding[]; fresh: Finding[] } {
  const [known, settled] = [new Set(told), new Set(noted)];
  const own = findings.filter(({ atUs }) => atUs > floorUs);
  return {
    // What cannot un-happen is settled once somebody knows it.
    open: own.filter(({ id, kind }) => !((kind === 'rule' || kind === 'silent') && settled.has(shortOf(id)))),
    fresh: own.filter(({ id }) => !known.has(shortOf(id))),
  };
}

/** The group after a look: what is there no more is forgotten, and (`news`) what is new was told. */
function remembered(group: Group, findings: readonly Finding[], news: boolean): Group {
  const known = new Set(group.told);
  const own = findings.filter(({ atUs, id }) => atUs > group.floorUs && (news || known.has(shortOf(id))));
  const cut = Math.max(0, own.length - REMEMBERED_MAX);
  const floorUs = own[cut - 1]?.atUs ?? group.floorUs;
  const told = own.slice(cut).map(({ id }) => shortOf(id));
  const there = new Set(told);
  return { ...group, told, noted: group.noted.filter((one) => there.has(one)), floorUs };
}

function nameOf({ rule, case: key }: Finding, { groupBy }: ProcessAlert, of: number): string {
  const name = groupBy === 'rule' || key === null ? rule : `case.${shortOf(key)}`;
  return of === 0 ? name : `${name}@${of}`;
}

function shortOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url').slice(0, 10);
}

function placesOf({ places }: ProcessLook): Kept['places'] {
  return Object.fromEntries([...places].map(([source, position]) => [source, formatSourcePosition(position)]));
}

function worst(findings: readonly Finding[]): Severity {
  return SEVERITIES[Math.max(0, ...findings.map(({ severity }) => SEVERITIES.indexOf(severity)))] ?? 'warning';
}

function kindsOf(findings: readonly Finding[]): FindingKind[] {
  return [...new Set(findings.map(({ kind }) => kind))];
}

/** What went wrong, and in how many cases: no keys, as everybody may read it. */
function problemOf(process: ProcessConfig, findings: readonly Finding[]): string {
  const rules = [...new Set(findings.map(({ rule }) => rule))].toSorted().map((rule) => ruleWords(process, rule));
  const cases = new Set(findings.flatMap((one) => one.case ?? [])).size;
  const many = cases === 0 ? '' : `, in ${cases} ${cases === 1 ? 'case' : 'cases'}`;
  return `${rules.slice(0, 5).join('; ')}${many}`;
}

function toldOf({ rule, case: key, severity, atUs, reason, event }: Finding): ToldFinding {
  return { rule, case: key, severity, at: isoMicros(atUs), reason, event };
}
