import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { METRICS, type MetricName } from '@tributary/ops';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { ROOT } from '../fixtures/system.ts';

const FOLDER = join(ROOT, 'deploy/dashboards');

interface Rules {
  groups: { rules: { alert: string; expr: string; labels: { severity: string }; annotations: Record<string, string> }[] }[];
}
interface Panel {
  title: string;
  type: string;
  targets?: { expr: string }[];
}
interface Dashboard {
  panels: Panel[];
  templating: { list: { definition?: string }[] };
}

const rules = (parse(readFileSync(join(FOLDER, 'alerts.yaml'), 'utf8')) as Rules).groups.flatMap((group) => group.rules);
const dashboard = JSON.parse(readFileSync(join(FOLDER, 'tributary.json'), 'utf8')) as Dashboard;
const shown = dashboard.panels.flatMap((panel) => (panel.targets ?? []).map(({ expr }) => ({ where: panel.title, expr })));
const asked = dashboard.templating.list.flatMap(({ definition }) =>
  definition ? [{ where: 'variable', expr: definition }] : [],
);
const alarms = rules.map(({ alert, expr }) => ({ where: alert, expr }));
const all = [...shown, ...asked, ...alarms];

const namesIn = (expr: string) => [...expr.matchAll(/\btributary_[a-z_]+/g)].map(([name]) => name);
const declared = (name: string) => METRICS[name as MetricName] as (typeof METRICS)[MetricName] | undefined;

describe('dashboards and alert rules', () => {
  it('name only metrics that are declared', () => {
    expect(shown.length).toBeGreaterThan(20);
    expect(alarms.length).toBeGreaterThan(10);
    expect(
      all.flatMap(({ where, expr }) =>
        namesIn(expr)
          .filter((name) => !declared(name))
          .map((name) => `${where}: ${name}`),
      ),
    ).toEqual([]);
  });

  it('show every metric that is declared', () => {
    const named = new Set(all.flatMap(({ expr }) => namesIn(expr)));
    expect(Object.keys(METRICS).filter((name) => !named.has(name))).toEqual([]);
  });

  it('group by labels that the metric has, and ask a counter for its growth', () => {
    const wrong = all.flatMap(({ where, expr }) => {
      const labels = new Set(namesIn(expr).flatMap((name): readonly string[] => declared(name)?.labels ?? []));
      const grouped = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = '']) =>
        list.split(',').map((one) => one.trim()),
      );
      const chosen = [...expr.matchAll(/[{,]\s*(\w+)=~?"/g)].map(([, label = '']) => label);
      const counters = namesIn(expr).filter((name) => declared(name)?.type === 'counter');
      return [
        ...[...grouped, ...chosen].filter((label) => !labels.has(label)).map((label) => `${where}: no label ${label}`),
        ...counters
          .filter((name) => !new RegExp(`(rate|increase)\\(${name}\\b`).test(expr))
          .map((name) => `${where}: ${name} as it is`),
      ];
    });
    expect(wrong).toEqual([]);
  });

  it('take one of those who tell the same, so that a console beside its workers does not count twice', () => {
    const bare = [...shown, ...alarms].filter(({ expr }) => !/\b(max|min)( by \([^)]*\))? \(|\bmax\(|absent\(/.test(expr));
    expect(bare).toEqual([]);
  });

  it('an alarm says what it is and what to do', () => {
    for (const { alert, labels, annotations } of rules) {
      expect(alert).toMatch(/^Tributary[A-Z]/);
      expect(['warning', 'critical']).toContain(labels.severity);
      expect(annotations['summary']?.length).toBeGreaterThan(10);
      expect(annotations['description']?.length).toBeGreaterThan(20);
    }
    // What others lacked (slots that stall unnoticed) is alarmed for in two ways: what is kept, and how long nothing was confirmed.
    const text = alarms.map(({ expr }) => expr).join('\n');
    for (const name of ['tributary_slot_retained_bytes', 'tributary_slot_confirm_age_seconds', 'tributary_actor_failed_state'])
      expect(text).toContain(name);
  });
});
