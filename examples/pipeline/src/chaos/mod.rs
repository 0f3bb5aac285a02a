//! What a campaign of failures needs inside the process: steps at which it can be made to fail, and rules that can
//! be taken away to see that the checker notices. Both exist only under the feature `failpoints`.

pub mod failpoint;
pub mod sabotage;

/// Declares an enum whose values are asked for by name.
macro_rules! named {
    (
        $(#[$of_all:meta])* $all:ident:
        $($(#[$doc:meta])* $value:ident = $name:literal,)+
    ) => {
        $(#[$of_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $all {
            $($(#[$doc])* $value,)+
        }

        impl $all {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$value,)+];

            /// The name by which it is asked for.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }

            /// The one of this name.
            #[cfg(feature = "failpoints")]
            fn by_name(name: &str) -> Result<Self, String> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|known| known.name() == name)
                    .ok_or_else(|| {
                        let known: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
                        format!("there is no {name:?}, but {}", known.join(", "))
                    })
            }
        }
    };
}
use named;

/// Reads what the environment asks for, once, before anything starts.
///
/// # Errors
///
/// What is wrong with it, in one line.
pub fn arm() -> Result<(), String> {
    #[cfg(feature = "failpoints")]
    {
        failpoint::arm()?;
        sabotage::arm()?;
    }
    Ok(())
}
