//! The script as the store sends it, at a moment of our own.

#![allow(dead_code, reason = "not each file of tests uses all of it")]

/// What one rule is asked, and by whom.
pub(crate) struct Rule<'a> {
    pub(crate) key: &'a str,
    pub(crate) version: u32,
    pub(crate) limit: u32,
    pub(crate) width: u64,
    pub(crate) cost: u32,
    /// How it counts: strict 0, log 1, counter 2, gcra 3.
    pub(crate) kind: u8,
}

const SCRIPT: &str = concat!(
    "local function rules(now)\n",
    include_str!("../../src/store/redis/script/head.lua"),
    include_str!("../../src/store/redis/script/strict.lua"),
    include_str!("../../src/store/redis/script/named.lua"),
    include_str!("../../src/store/redis/script/decide.lua"),
    "end\n",
    include_str!("../../src/store/redis/script/head.lua"),
    include_str!("../../src/store/redis/script/batch.lua"),
);

/// One request under all the rules, the short way if there is one way of two; for each rule limit,
/// remaining, reset and wait (-1 for never).
pub(crate) fn call(now: u64, rules: &[Rule<'_>], short: bool) -> redis::Cmd {
    numbered(now, None, rules, short)
}

/// The same as the batch of this number in its lane.
pub(crate) fn numbered(
    now: u64,
    number: Option<u64>,
    rules: &[Rule<'_>],
    short: bool,
) -> redis::Cmd {
    let mut terms = Vec::new();
    let mut group = Vec::new();
    let mut item = Vec::new();
    item.push(0);
    item.extend(0_u64.to_le_bytes());
    item.extend(1_u32.to_le_bytes());
    item.push(rules.len() as u8);
    for (n, rule) in rules.iter().enumerate() {
        terms.extend(rule.version.to_le_bytes());
        terms.extend(rule.limit.to_le_bytes());
        terms.extend(rule.width.to_le_bytes());
        terms.push(rule.kind);
        item.extend((n as u16).to_le_bytes());
        item.extend((n as u16 + 1).to_le_bytes());
        item.extend(rule.cost.to_le_bytes());
        item.push(0);
    }
    if short {
        assert_eq!(rules.len(), 1, "the short way is for one rule");
        item.clear();
        group.extend(1_u16.to_le_bytes());
        group.extend(rules[0].cost.to_le_bytes());
        group.extend(1_u32.to_le_bytes());
        group.extend(0_u32.to_le_bytes());
        group.extend(0_u64.to_le_bytes());
        group.extend(1_u16.to_le_bytes());
        // It has to come to the same, whatever is thought likely.
        group.push((now % 2) as u8);
    }
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(SCRIPT).arg(1 + rules.len()).arg("lane");
    for rule in rules {
        cmd.arg(rule.key);
    }
    let number = number.map(|number| number.to_string()).unwrap_or_default();
    cmd.arg(now)
        .arg(number)
        .arg(terms)
        .arg("")
        .arg(group)
        .arg(item);
    cmd
}

/// What the script replied, as four numbers for each rule.
pub(crate) fn read(reply: &[u8], rules: &[Rule<'_>], short: bool) -> Vec<i64> {
    let mut rest = reply;
    let mut take = |bytes: usize| {
        let (taken, after) = rest.split_at(bytes);
        rest = after;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(taken);
        u64::from_le_bytes(word) as i64
    };
    let now = take(8);
    let kind = take(1);
    if short && kind != 0 {
        let ahead = kind - 1;
        let left = take(4);
        let width = rules[0].width as i64;
        let reset = (now / width + ahead + 17) * width - now;
        return vec![
            rules[0].limit.into(),
            left - i64::from(rules[0].cost),
            reset,
            0,
        ];
    }
    assert_eq!(kind, 0, "a foreign value");
    let passes = take(4) == 1;
    let mut numbers = Vec::new();
    for rule in rules {
        let _blocked = take(1);
        let limit = take(4);
        let (left, _charged, reset) = (take(4), take(4), take(8));
        let (left_after, reset_after, wait) = (take(4), take(8), take(8));
        numbers.push(limit);
        if passes {
            numbers.extend([left - i64::from(rule.cost), reset, 0]);
        } else {
            let wait = if wait == 1 << 53 { -1 } else { wait };
            numbers.extend([left_after, reset_after, wait]);
        }
    }
    assert!(rest.is_empty());
    numbers
}
