// What many things cost: a thousand points, ten thousand captures, millions of pixels of packets. Started by test/e2e
// (TestNetnsDashboardMany). How long things take is told and not judged, since machines differ; that they stay small is.
import { api, done, equal, eventually, holds, launch, open, test } from './browser.mjs';

const browser = await launch();
const clean = (page) => equal(page.wrong, [], 'what went wrong in the page');

/** watched opens a page that writes down what held it up for 50 ms and more. */
async function watched(state) {
  const page = await open(browser, { state });
  await page.addInitScript(() => {
    window.long = [];
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map((e) => Math.round(e.duration)))).observe({ type: 'longtask', buffered: true });
  });
  return page;
}
const held = async (page) => `longest tasks ${JSON.stringify((await page.evaluate(() => window.long.splice(0))).sort((a, b) => b - a).slice(0, 5))} ms`;

/** scroll moves a list from end to end, and returns the most elements that it had. */
const scroll = (page, box, steps) =>
  page.evaluate(
    async ([box, steps]) => {
      const el = document.querySelector(box);
      let most = 0;
      for (let i = 0; i <= steps; i++) {
        el.scrollTop = (i / steps) * (el.scrollHeight - el.clientHeight);
        await new Promise((ok) => requestAnimationFrame(ok));
        most = Math.max(most, el.querySelectorAll('*').length);
      }
      return most;
    },
    [box, steps],
  );

let state;
await test('a thousand points are there at once', async () => {
  const first = await open(browser, { at: '/' });
  await first.fill('#token', process.env.OPENTAP_TOKEN);
  await first.click('button:text("Sign in")');
  await first.waitForSelector('h1:text("Overview")');
  state = await first.context().storageState();
  await first.context().close();
  const points = (await api('GET', '/v1/points')).points.length;
  holds(points >= 1000, `${points} points`);
  const took = [];
  for (let i = 0; i < 3; i++) {
    const page = await watched(state);
    await page.goto(process.env.OPENTAP_URL + '/', { waitUntil: 'commit' });
    took.push(
      await page.evaluate(
        () =>
          new Promise((ok) => {
            const look = () => (document.querySelectorAll('.line b').length > 5 ? setTimeout(() => ok(Math.round(performance.now()))) : requestAnimationFrame(look));
            look();
          }),
      ),
    );
    await eventually('all are counted', async () => (await page.locator('section:has(h2:text("Points")) header').innerText()).replace(/\D/g, '').startsWith('1000'));
    if (i === 2) {
      const most = await scroll(page, 'section[aria-labelledby=points] .scroll', 60);
      holds(most < 1500, `${most} elements for ${points} points`);
      took.push(await held(page));
      await page.keyboard.press('/');
      await page.keyboard.type('b77');
      await eventually('those that fit are shown', async () => (await page.locator('.line b').allInnerTexts()).every((t) => t.includes('b77')));
    }
    clean(page);
    await page.context().close();
  }
  return `to be used after ${took.slice(0, 3).join(', ')} ms; ${took[3]}`;
});

await test('ten thousand captures move without a hitch', async () => {
  await api('POST', '/v1/captures', { id: 'one', kind: 'pcap', points: ['tap0'], duration: '1s' });
  await eventually('it is done', async () => (await api('GET', '/v1/captures/one')).status.state === 'done');
  const one = await api('GET', '/v1/captures/one');
  const all = Array.from({ length: 10_000 }, (_, i) => ({ ...one, uid: 'u' + i, id: `capture ${i}`, created: new Date(Date.parse(one.created) + i).toISOString() }));
  const page = await watched(state);
  // The stream is the server's own form, with ten thousand of its captures instead of one.
  const text = [['begin', { time: new Date().toISOString(), name: 'lab', version: '1' }], ['nodes', { nodes: [] }], ['points', { points: [] }], ['rates', { time: '', rates: [] }], ['captures', { captures: all, gone: [] }]];
  await page.route('**/v1/events', (r) => r.fulfill({ contentType: 'text/event-stream', body: 'retry: 1000000\n\n' + text.map(([n, d]) => `event: ${n}\ndata: ${JSON.stringify(d)}\n\n`).join('') }));
  await page.goto(process.env.OPENTAP_URL + '/#/captures');
  await page.waitForSelector('a.line:has-text("capture 9999")');
  equal((await page.locator('.head .sub').innerText()).replace(/\D/g, ''), '10000', 'captures');
  const begun = await held(page);
  const most = await scroll(page, '.list .scroll', 200);
  holds(most < 2000, `${most} elements`);
  await page.waitForSelector('a.line:has-text("capture 0")');
  const moved = await held(page);
  await page.fill('[aria-label="Find a capture"]', 'capture 777');
  await eventually('eleven fit', async () => (await page.locator('.head .sub').innerText()).startsWith('11 '));
  clean(page);
  const said = `at first ${begun}, scrolling ${moved}, finding ${await held(page)}`;
  await page.context().close();
  return said;
});

await test('ten thousand packets move without a hitch', async () => {
  await eventually('ten thousand can be looked at', async () => (await api('GET', '/v1/captures/long/packets?limit=1')).total >= 10_000);
  const page = await watched(state);
  await page.goto(process.env.OPENTAP_URL + '/#/captures/long/packets');
  await page.waitForSelector('.rows [role=option]');
  const begun = await held(page);
  const most = await scroll(page, '.scroll[role=listbox]', 200);
  holds(most < 1500, `${most} elements`);
  await page.waitForSelector('.rows [role=option]:has-text("192.0.2.2")');
  clean(page);
  const said = `at first ${begun}, scrolling ${await held(page)}`;
  await page.context().close();
  return said;
});

await browser.close();
done();
