//! Keys that are held back because a message of theirs is dead or waits.

use seawall_dlq::{HeldKey, HeldKeys};
use seawall_redis::Shared;

use crate::{Stop, args::Group, link::Link, place, show, stream};

type Held = HeldKeys<Shared<Link>>;

pub(crate) async fn list(group: &Group, json: bool) -> Result<(), Stop> {
    let held = open(group).await?;
    let keys = held.list().await.map_err(|error| Stop::wrong(&error))?;
    let mut keys: Vec<HeldKey> = keys;
    keys.sort_by(|a, b| b.behind.cmp(&a.behind).then_with(|| a.key.cmp(&b.key)));
    match json {
        true => { keys.iter() }.try_for_each(|key| show::say(&show::held_json(key))),
        false => show::say(&show::held(&keys)),
    }
}

pub(crate) async fn let_go(group: &Group, key: &str, hex: bool, json: bool) -> Result<(), Stop> {
    let bytes = match hex {
        true => digits(key)?,
        false => key.as_bytes().to_vec(),
    };
    let held = open(group).await?;
    let was_held = held.let_go(&bytes).await;
    if !was_held.map_err(|error| Stop::wrong(&error))? {
        return Err(Stop::Wrong(format!(
            "no key `{}` is held: `held` shows those that are",
            show::clean(key, 60)
        )));
    }
    show::say(&match json {
        true => format!("{}\n", serde_json::json!({ "let_go": 1 })),
        false => "let go: what is behind goes on\n".to_owned(),
    })
}

async fn open(group: &Group) -> Result<Held, Stop> {
    let Group {
        at,
        stream: messages,
        group,
    } = group;
    if !place::is_url(at) || place::is_kafka(at) {
        return Err(Stop::Wrong(format!(
            "{} holds no keys: only a consumer of Redis does, such as seawall-dlq held redis://127.0.0.1/ {{orders}} workers",
            place::shown(at)
        )));
    }
    let connection = stream::connect(at).await?;
    stream::check_stream(&connection, at, messages).await?;
    stream::check_group(&connection, at, messages, group).await?;
    HeldKeys::new(connection, messages, group).map_err(|error| Stop::Wrong(error.to_string()))
}

fn digits(text: &str) -> Result<Vec<u8>, Stop> {
    let wrong =
        || Stop::Wrong("with --hex a key is pairs of hexadecimal digits: 00ff0a".to_owned());
    let digits: Vec<char> = text.chars().collect();
    if !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let pairs = digits.chunks(2).map(|pair| {
        let (high, low) = (pair[0].to_digit(16)?, pair[1].to_digit(16)?);
        u8::try_from(16 * high + low).ok()
    });
    pairs.collect::<Option<_>>().ok_or_else(wrong)
}
