//! Kafka's own program: a directory of jars, brought once by Maven and kept in the user's cache.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// The release whose brokers the tests run on.
pub const KAFKA_VERSION: &str = "3.9.1";
/// Names a directory that has the jars, so that nothing is fetched.
const VARIABLE: &str = "KAFKA_JARS";
/// What the jars are the run-time dependencies of. The second turns Kafka's log into lines that can be read.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>seawall</groupId>
  <artifactId>kafka-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>KAFKA_VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-reload4j</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"#;

/// The directory of Kafka's jars: what `KAFKA_JARS` names, or the cache of this user, filled by `mvn` the first
/// time. Several processes may ask at once.
///
/// # Errors
///
/// If they are not there and cannot be fetched; the message says what to do.
pub fn kafka_jars() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return match has_kafka(&named) {
            true => Ok(named),
            false => Err(format!("{VARIABLE}={}: no jars of Kafka", named.display())),
        };
    }
    let cache = cache().join(format!("kafka-{KAFKA_VERSION}"));
    let jars = cache.join("jars");
    if has_kafka(&jars) {
        return Ok(jars);
    }
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error: io::Error| format!("{what}: {error}")
    };
    fs::create_dir_all(&cache).map_err(failed(&cache))?;
    let lock = File::create(cache.join("lock")).map_err(failed(&cache))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(&cache)(error.into()))?;
    // Somebody else may have brought them while this process waited.
    if !has_kafka(&jars) {
        fetch(&cache, &jars)?;
    }
    Ok(jars)
}

fn fetch(cache: &Path, jars: &Path) -> Result<(), String> {
    let pom = cache.join("pom.xml");
    let coming = cache.join("jars.coming");
    let _ = fs::remove_dir_all(&coming);
    fs::write(&pom, POM.replace("KAFKA_VERSION", KAFKA_VERSION))
        .map_err(|error| format!("{}: {error}", pom.display()))?;
    let program = std::env::var_os("MAVEN").unwrap_or_else(|| OsString::from("mvn"));
    let output = Command::new(&program)
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", coming.display()))
        .arg("-DincludeScope=runtime")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            format!(
                "cannot run {}: {error}. Kafka's jars come by Maven: install it (Debian, Ubuntu: apt-get install \
                 maven; macOS: brew install maven), put its path into MAVEN, or name a directory of the jars of \
                 kafka_2.13 {KAFKA_VERSION} in {VARIABLE}",
                program.display()
            )
        })?;
    if !output.status.success() {
        return Err(format!(
            "Maven did not bring kafka_2.13 {KAFKA_VERSION} ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let _ = fs::remove_dir_all(jars);
    // At once, so that a directory of that name is always whole.
    fs::rename(&coming, jars).map_err(|error| format!("{}: {error}", jars.display()))
}

fn has_kafka(jars: &Path) -> bool {
    jars.join(format!("kafka_2.13-{KAFKA_VERSION}.jar"))
        .is_file()
        || std::env::var_os(VARIABLE).is_some() && any_kafka(jars)
}

/// A directory that somebody named may have another release.
fn any_kafka(jars: &Path) -> bool {
    fs::read_dir(jars).is_ok_and(|files| {
        files.flatten().any(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("kafka_2.") && name.ends_with(".jar")
        })
    })
}

fn cache() -> PathBuf {
    let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    named("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("seawall")
}
