import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { type BrowserContext, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { System } from '../fixtures/system.ts';

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => existsSync(path));
const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const KPI = `kind: Kpi
name: sales
owner: bi@shop
from: { o: shop.public.orders }
time: { column: o.paid_at, grains: [day, week] }
dimensions: { side: "CASE WHEN o.id % 3 = 0 THEN 'left' ELSE 'right' END" }
measures: { gmv: { sql: "sum(o.amount)", unit: EUR }, orders: { sql: "count(*)" } }
targets: [{ measure: gmv, grain: day, target: 620 }]
freshness: { target: 5m, alert_after: 5m }
`;

const PROCESS = `kind: Process
name: errands
root: errand
objects: { errand: { table: shop.errands, state: status, created: state } }
allowed: { errand: ">asked; asked>done" }
`;

if (!CHROMIUM) console.warn('BROWSER TESTS ARE SKIPPED: no Chromium on this machine. Install it: apt-get install chromium');

describe.skipIf(!CHROMIUM)('the console in a browser', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let browser: BrowserContext;
  let page: Page;
  const problems: string[] = [];

  beforeAll(async () => {
    const folder = await temporaryFolder('browser');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    await writeFile(config, `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\n${KPI}---\n${PROCESS}`);
    const client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query('CREATE TABLE errands (id int PRIMARY KEY, status text)');
    await client.query(`CREATE TABLE orders (id int PRIMARY KEY, amount numeric(10,2), paid_at timestamptz);
      INSERT INTO orders SELECT i, 100 + i % 7, timestamptz '2026-03-01' + i * interval '4 hours' FROM generate_series(1, 60) i`);
    await client.end();
    system = new System(config, join(folder, 'data'));
    await system.start();
    browser = await chromium.launchPersistentContext(await mkdtemp(join(tmpdir(), 'tributary-chromium-')), {
      executablePath: CHROMIUM as string,
      headless: true,
      args: ARGS,
      viewport: { width: 1280, height: 900 },
    });
    page = await browser.newPage();
    // On a busy machine an answer about a process takes long, and it is asked for seldomer then.
    page.setDefaultTimeout(120_000);
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(message.text());
    });
  });
  afterAll(async () => {
    await browser?.close();
    await system?.stop();
    await postgres?.stop();
  });

  it('shows sources, projections and changes as they happen', async () => {
    await page.goto(system.console);
    await page.getByText('Live', { exact: true }).waitFor();
    await page.locator('canvas').first().waitFor();
    await page.getByRole('link', { name: 'System' }).click();
    await page.getByText('lake/shop').first().waitFor();
    const client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1234)');
    await client.end();
    // 1,234 rows, by stream or by snapshot, beside the 60 orders in the source's total.
    await page.getByText('1,294 in all').first().waitFor();
    // Who leads what, and since which epoch.
    const lease = page.locator('#leases tr[data-key="source/shop"]');
    await lease.waitFor();
    expect(await lease.innerText()).toMatch(/source\/shop\s+\S+\s+1\s/);
    await page.locator('#workers tbody tr[data-key]').first().waitFor();
    await page.getByText('3 tables captured').first().waitFor();
    expect(problems).toEqual([]);
  });

  it('shows KPIs: values with their target and how fresh they are, what changed after it was closed, the definition', async () => {
    const card = page.locator('#kpis');
    await page.getByRole('link', { name: 'KPIs' }).click();
    await page.locator('#kpi-chart canvas').waitFor();
    // Ten days of six orders, but for the first and the last.
    await card.getByText(/^\d+ EUR\. Complete to 2\d{3}-.* ago \(within its target of 5 min/).waitFor();
    expect(await page.locator('#kpi-definition').innerText()).toContain('"sql": "sum(o.amount)"');
    await page.getByText('No closed bucket has changed.').waitFor();
    const client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query(`UPDATE orders SET amount = 1000 WHERE id = 7`);
    await client.end();
    await page.locator('#kpi-revisions tr[data-key^="day 2026-03-02"]').waitFor();
    await page.locator('#kpi-measure').selectOption('orders');
    await page.locator('#kpi-grain').selectOption('week');
    // The last week, of which one day has orders.
    await card.getByText(/^\d+\. Complete to/).waitFor();
    expect(problems).toEqual([]);
  });

  it('divides a KPI by a dimension', async () => {
    await page.locator('#kpi-grain').selectOption('day');
    await page.locator('#kpi-by').selectOption('side');
    const parts = page.locator('#kpi-parts tbody tr[data-key]');
    await parts.nth(1).waitFor();
    // The last day has one order: its number, 60, can be divided by three.
    const told = (await parts.allInnerTexts()).map((text) => text.split(/\s+/).slice(0, 2).join(' '));
    expect(told).toEqual(['left 1', 'right 0']);
    await page.locator('#kpi-chart .u-legend').getByText('right').waitFor();
    expect(problems).toEqual([]);
    await page.locator('#kpi-by').selectOption('none');
    await page.locator('#kpi-divided').waitFor({ state: 'hidden' });
  });

  it('tries another definition of a KPI beside the one that runs, and says where it is wrong', async () => {
    const edit = page.locator('#kpi-edit');
    page.setDefaultTimeout(30_000);
    await page.locator('#kpi-measure').selectOption('gmv');
    const text = await edit.inputValue();
    expect(text).toBe(KPI);
    const differences = page.locator('#kpi-differences tbody tr[data-key]');
    // Orders of one day cost more: that day, and no other, would be another one.
    await edit.fill(text.replace('sum(o.amount)', 'sum(o.amount + CASE WHEN o.id = 20 THEN 5 ELSE 0 END)'));
    await page.getByText('It fits. Values that would be others: 1 of 11.').waitFor();
    expect(await differences.allInnerTexts()).toEqual([expect.stringMatching(/^2026-03-04\S*\s+gmv 618\s+gmv 623$/)]);
    expect(problems).toEqual([]);
    await edit.fill(text.replace('sum(o.amount)', 'sum(o.amuont)'));
    const wrong = page.locator('#kpi-trial[data-tone="bad"]');
    await wrong.getByText(/body:7:\d+: Kpi sales, "measures\.gmv\.sql": .*amuont/).waitFor();
    expect(await differences.count()).toBe(0);
    await wrong.click();
    // The words in which the mistake stands are selected.
    const [from, to] = await edit.evaluate((area: unknown) => {
      const { selectionStart, selectionEnd } = area as { selectionStart: number; selectionEnd: number };
      return [selectionStart, selectionEnd];
    });
    expect((await edit.inputValue()).slice(from, to)).toMatch(/^"sum\(o\.amuont\)"|^sql: "sum\(o\.amuont\)"/);
    // Chromium tells its console of every refusal.
    expect(problems.splice(0)).toEqual([expect.stringContaining('400')]);
    await page.getByRole('button', { name: 'Put back' }).click();
    expect(await edit.inputValue()).toBe(KPI);
  });

  it('shows processes: what is wrong and in which case, where cases stand, the map, and the way of one', async () => {
    await page.getByRole('link', { name: 'Processes' }).click();
    await page.getByText('No rule is broken.').waitFor();
    const client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    for (let id = 1; id <= 6; id++) {
      await client.query(`INSERT INTO errands VALUES (${id}, 'asked')`);
      if (id <= 5) await client.query(`UPDATE errands SET status = 'done' WHERE id = ${id}`);
    }
    await page.getByText('1 errand on the way. Most errands stand after “errand asked”: 1,').waitFor();
    await page.locator('#process-map [data-activity="errand done"]').waitFor();
    // The one that goes on; then one that has ended.
    await page.locator('#process-cases tr[data-key="6"]').waitFor();
    await page.locator('#case-state').selectOption('true');
    await page.locator('#process-cases tr[data-key="3"]').click();
    const way = page.locator('#case-timeline tbody tr[data-key]');
    await way.nth(1).waitFor();
    expect((await way.allInnerTexts()).map((text) => text.split('\n')[0])).toEqual(['errand asked', 'errand done']);
    expect(await way.nth(1).innerText()).toMatch(/asked\s+done\s+shop/);
    await client.query(`UPDATE errands SET status = 'asked' WHERE id = 4`);
    await client.end();
    await page.keyboard.press('Escape');
    const broken = page.locator('#problems-rules [data-rule="allowed.errand"]');
    await page.locator('#problems-learned', { hasText: 'as of' }).waitFor();
    await broken.getByText('Errand changed its state in a way that is not allowed').waitFor();
    expect(await broken.innerText()).toContain('1 errand');
    await broken.getByRole('link', { name: '4', exact: true }).click();
    await page.getByRole('heading', { name: 'errand 4', exact: true }).waitFor();
    await page
      .locator('#case-problems')
      .getByText(/^allowed\.errand broken at/)
      .waitFor();
    // The event that broke it, and a place that can be sent to somebody.
    expect(await page.locator('#case-timeline tr[data-key]', { hasText: 'allowed.errand' }).innerText()).toMatch(
      /done\s+asked\s+shop/,
    );
    expect(page.url()).toMatch(/#processes\/errands\/4$/);
    expect(problems).toEqual([]);
  });

  it('says so when the system goes away', async () => {
    await system.kill();
    await page.locator('#connection:not([data-state="live"])').waitFor();
    expect(await page.locator('#connection').textContent()).not.toContain('Live');
  });
});
