// What the tests of the dashboard share: a browser, a page that watches itself, and one line per result.
import { chromium } from 'playwright-core';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

/** launch starts the browser that the environment names. */
export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] });

export const patience = Number(process.env.PATIENCE ?? 60_000);

/** A page, and all that went wrong in it. elsewhere is an origin that it may go to, besides the server's. */
export async function open(browser, { width = 1440, height = 900, theme = 'light', at, state, elsewhere = '' } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, locale: 'en-GB', timezoneId: 'Europe/Vienna', storageState: state, acceptDownloads: true, reducedMotion: 'reduce' });
  context.setDefaultTimeout(patience);
  // Lets axe in where no inline script may run: through the debugger, as a person's own tools would be.
  const page = await context.newPage();
  page.wrong = [];
  page.on('console', (m) => ['error', 'warning'].includes(m.type()) && !(elsewhere && m.location().url.startsWith(elsewhere)) && page.wrong.push(`console ${m.type()}: ${m.text()}`));
  page.on('pageerror', (e) => page.wrong.push(`page error: ${e.message}`));
  page.on('dialog', async (d) => {
    page.wrong.push(`a dialog opened: ${d.message()}`);
    await d.dismiss();
  });
  page.on('request', (r) => {
    if (![new URL(process.env.OPENTAP_URL).origin, elsewhere].includes(new URL(r.url()).origin)) page.wrong.push(`loads from elsewhere: ${r.url()}`);
  });
  // What has been asked and not answered, but for the stream of events, which has no end.
  page.asked = new Set();
  page.on('request', (r) => r.resourceType() !== 'eventsource' && page.asked.add(r));
  for (const over of ['requestfinished', 'requestfailed']) page.on(over, (r) => page.asked.delete(r));
  if (at !== undefined) await page.goto(process.env.OPENTAP_URL + at);
  return page;
}

/** accessible runs axe and returns what is serious. */
export async function accessible(page) {
  await page.evaluate(axe + ';0');
  const found = await page.evaluate(async () => (await window.axe.run(document, { resultTypes: ['violations'] })).violations.map((v) => ({ id: v.id, impact: v.impact, where: v.nodes.slice(0, 4).map((n) => n.target.join(' ') + ' ' + (n.any[0]?.message ?? '')) })));
  return found.filter((v) => v.impact === 'serious' || v.impact === 'critical');
}

let failed = 0;

/** test runs one and says how it went, for the Go test that started us, with the figures that it returns. */
export async function test(name, fn) {
  if (process.env.ONLY && !name.includes('signs in') && !name.includes(process.env.ONLY)) return;
  const began = Date.now();
  try {
    const figures = await fn();
    console.log(`ok\t${name}\t${Date.now() - began} ms${figures ? '; ' + figures : ''}`);
  } catch (e) {
    failed++;
    console.log(`not ok\t${name}\t${String(e?.stack ?? e).replace(/\n/g, ' ⏎ ').slice(0, 3000)}`);
  }
}

export function equal(got, want, what) {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

export function holds(ok, what) {
  if (!ok) throw new Error(what);
}

/** eventually polls until ok. */
export async function eventually(what, ok, most = patience) {
  for (const end = Date.now() + most; ; await new Promise((r) => setTimeout(r, 50))) {
    if (await ok()) return;
    if (Date.now() > end) throw new Error(`not within ${most} ms: ${what}`);
  }
}

/** settled waits until the page has all that it asked for. */
export async function settled(page) {
  await eventually('the page has what it asked for', async () => {
    if (page.asked.size > 0 || (await page.locator('[aria-busy="true"]').count()) > 0) return false;
    await page.evaluate(() => new Promise((ok) => requestAnimationFrame(() => setTimeout(ok, 60))));
    return page.asked.size === 0;
  });
}

/** fits holds that nothing is wider than the screen. */
export async function fits(page, name) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  holds(wide <= 0, `${name}: ${wide} pixels too wide`);
}

/** sh runs a line that a page shows, as a person would who has copied it, and returns what it says. */
export function sh(line, cwd) {
  const bin = path.dirname(process.env.OPENTAP);
  return execFileSync('sh', ['-c', line], { cwd, env: { ...process.env, PATH: `${bin}:${process.env.PATH}` }, stdio: ['ignore', 'pipe', 'pipe'], timeout: patience });
}

/** shot keeps a picture for people to look at. */
export async function shot(page, name) {
  const dir = process.env.SHOTS;
  if (!dir) return;
  fs.mkdirSync(dir, { recursive: true });
  await page.screenshot({ path: path.join(dir, name + '.png') });
}

/** api asks as a script does, with the token. */
export async function api(method, p, body) {
  const r = await fetch(process.env.OPENTAP_URL + p, {
    method,
    headers: { Authorization: 'Bearer ' + process.env.OPENTAP_TOKEN, ...(body ? { 'Content-Type': 'application/json' } : {}) },
    body: body ? JSON.stringify(body) : undefined,
  });
  const text = await r.text();
  if (!r.ok) throw new Error(`${method} ${p}: ${r.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

export async function bytes(p) {
  const r = await fetch(process.env.OPENTAP_URL + p, { headers: { Authorization: 'Bearer ' + process.env.OPENTAP_TOKEN } });
  if (!r.ok) throw new Error(`GET ${p}: ${r.status}`);
  return Buffer.from(await r.arrayBuffer());
}

export const done = () => process.exit(failed ? 1 : 0);
